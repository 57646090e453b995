"""Where runs come from: records, W&B, anyone's table, frozen results. Each gives an `analysis.study.Study`."""
