"""How the shipped model is made: data, conversations with exact targets, the training loop and its judges.

Nothing here is imported by the model server; it needs the `torch` extra and the files of `../shared/data`.
"""
