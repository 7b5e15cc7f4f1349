"""`python execute.py NOTEBOOK OUTPUT FOLDER`: run a notebook in a folder and keep what it shows."""

import sys

import nbformat
from nbclient import NotebookClient

source, output, folder = sys.argv[1:]
book = nbformat.read(source, as_version=4)
client = NotebookClient(
    book, timeout=900, kernel_name="python3", resources={"metadata": {"path": folder}}
)
try:
    client.execute()
finally:
    nbformat.write(book, output)
