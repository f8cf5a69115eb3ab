"""SIP legs: the edge in front and the workers behind it."""
