"""From the names of files to the pieces of the documents in them.

    names --names--> paths --inputs--> files with their formats --unpacked--> bytes
    bytes --text, jsonl, json_list, separated--> pieces and flaws    files --tables--> pieces and flaws

A piece is a document or a part of a long one, a flaw what was skipped or replaced; each has the place at which reading
can go on, and both are functions of the file and the rules. `read` is the door. Reading order: pieces, records, text.
"""
