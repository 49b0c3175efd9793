"""Claims: functions that decide published statements from the results of runs, and return verdicts with numbers."""
