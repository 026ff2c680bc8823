"""`llmtune ui`: the store's runs as web pages on this machine. It only reads.

with Server(port=0) as server:     # a thread of its own, on loopback
    print(server.url)
"""
