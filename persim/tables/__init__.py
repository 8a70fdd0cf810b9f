"""Own data: a long table with one row per agent and time in, a personalised simulator out."""
