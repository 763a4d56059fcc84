"""Studies: a file that asks a question, and the runs that answer it.

study.toml --config--> plan --harness, workers--> trials --result--> statistics, page
"""
