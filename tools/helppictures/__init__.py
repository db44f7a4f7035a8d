"""The pictures of the help pages, from the models that ship with the pack."""
