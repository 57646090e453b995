"""From records to statistics, figures and a report. Reads records, never models; imports no torch."""
