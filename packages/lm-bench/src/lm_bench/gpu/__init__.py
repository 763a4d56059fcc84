"""`lm-bench gpu`: what a card reaches in training and decoding, beside the peers, in one call of minutes.

    groups of jobs --waves--> a process for each job: builds and compiles, side by side, then stands still
                   --rounds--> one process works at a time, the sides of a group in turn --> rows --> table, JSON lines

Reading order: jobs -> work -> sides -> child -> measurement -> report.
"""
