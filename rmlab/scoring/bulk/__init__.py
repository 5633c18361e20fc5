"""Scoring at scale: files of any size in, a folder of Parquet parts out.

A job cuts the rows of its input into parts of a fixed number of rows. A part is scored as a whole and appears under its
name as a whole, so whoever is killed, and however often, what is there is right and what is not there is still to do.
Which process scores a part changes nothing in it: one process, the ranks of `torchrun` and the workers of a Ray cluster
write the same folder.

files.py    what comes in; files that appear whole or not at all
survey.py   how many rows, in which columns
columns.py  the Arrow types of JSON rows, and rows -> table
job.py      what is to be done: the input, its parts, the request; kept in the folder, so that a job goes on as it began
work.py     a share of the parts scored and written
cluster.py  the shares as a Ray Data pipeline
"""
