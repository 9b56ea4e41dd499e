"""StreamGaze (arXiv 2512.01707): its ten tasks, run offline. docs/streamgaze.md says how to get the data and read the
tables. Reading a dataset, a run and a report needs no torch; protocols and the runner do."""
