"""The methods text and its bibliography."""
