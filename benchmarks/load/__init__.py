"""The load generators: wrk for the table, and a pacer of our own for everything else."""
