"""The JSON schemas of the API by what they are about: request bodies, query parameters, and responses.

Times in responses are RFC 3339 text in UTC, durations are seconds.
"""
