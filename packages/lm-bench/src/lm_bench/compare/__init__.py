"""`lm-bench compare RUN RUN ...`: runs of any app side by side, those of equal configs as one group.

run folders --runs--> records and configs --groups--> mean and spread --table, picture--> text, one HTML or PNG file
"""
