"""Models and tokenizers: found, loaded, given an adapter, put on a device; and what memory they take."""
