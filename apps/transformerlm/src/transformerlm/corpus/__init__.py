"""From the names of files to the pieces of the documents in them.

names --inputs--> files --text, jsonl, parquet--> pieces of documents, each with the place at which reading can go on
"""
