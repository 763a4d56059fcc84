"""From the names of files to the pieces of the documents in them.

    names --names--> paths --inputs--> files with their formats --unpacked--> bytes
    bytes --plain, jsonl, json_list, separated--> pieces and flaws    files --tables--> pieces and flaws
    hub:NAME --hub--> pieces and flaws

A piece is a document or a part of a long one, a flaw what was skipped or replaced; each has the place at which reading
can be resumed, and both are functions of the file and the rules. `read` is the door. Reading order: documents, records,
plain.

`one_file` and `characters` are for a text that is read whole; `named` has the data sets that are known by a name.
"""
