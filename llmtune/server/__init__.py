"""`llmtune serve`: tuned models, local or hosted, behind one endpoint that speaks OpenAI's chat completions.

with Server(["support-bot"], port=0) as server:     # a thread of its own
    client = openai.OpenAI(base_url=server.url, api_key="none")
"""
