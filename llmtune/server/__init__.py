"""`llmtune serve`: tuned models, local or hosted, behind one endpoint compatible with OpenAI's chat completions.

with Server(["support-bot"], port=0) as server:     # in its own thread
    client = openai.OpenAI(base_url=server.url, api_key="none")
"""
