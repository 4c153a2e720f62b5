"""Search for rewards: the candidates' language, sandbox and gates, and statistics on recorded answers."""
