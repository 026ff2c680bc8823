"""Models and tokenizers: located, loaded, given an adapter, put on a device; and what memory they take."""
