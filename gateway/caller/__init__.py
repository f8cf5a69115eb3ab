"""A SIP caller of our own: signalling, paced RTP and the analysis of what came back."""
