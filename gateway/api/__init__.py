"""The HTTP interface: browser calls by WHIP, their page, and what both need."""
