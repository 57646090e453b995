"""Named streams: the same numbers for the same name, whatever else there is."""

import torch

from sngan.streams import Normal, torch_generator


def test_a_stream_can_be_taken_up_again() -> None:
    source, out = Normal(torch_generator(3, "z_d"), (4, 4), torch.float32), torch.empty(4, 4)
    source.fill(out)
    state = source.state()
    source.fill(out)
    first = out.clone()
    source.load_state(state)
    source.fill(out)
    assert torch.equal(out, first)


def test_names_and_seeds_are_streams_of_their_own() -> None:
    draws = [torch.randn(5, generator=torch_generator(*of)).tolist() for of in ((3, "z_d"), (3, "z_g"), (4, "z_d"))]
    assert len(set(map(tuple, draws))) == 3
    assert draws[0] == torch.randn(5, generator=torch_generator(3, "z_d")).tolist()
