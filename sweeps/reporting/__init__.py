"""The report: from rows to the tables and figures of the paper, ours beside theirs."""
