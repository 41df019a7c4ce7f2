"""A trained world model on episodes it was not trained on: bound, open-loop errors, scores, evidence."""
