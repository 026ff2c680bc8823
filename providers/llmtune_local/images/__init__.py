"""Images of rows: read from the row, limited, and turned into the inputs of a model of text and images."""
