"""A trained model put to use: answers to texts, their likelihood, an outside harness."""
