"""Whether what is installed under the name llmtune is this project, and whole."""
