"""The way out: move a tuned model whose vendor is closing to another backend, with proof of what changed."""
