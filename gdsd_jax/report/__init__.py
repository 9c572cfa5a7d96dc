"""What a person looks at: the page of a run, curves of several, the unmasking of an answer."""
