"""The interaction model: hears, sees and reads a micro-turn, writes and speaks one. Needs the extra `torch`."""
