"""The interface for programs below `/v1`, in one place for each question.

| module | says |
|---|---|
| `shapes` | what is sent and given: types, with their bounds |
| `operations` | the table: method and path, scope, what goes in, what comes back |
| `openapi` | the document, made from the two |
| `surface` | one request from its first byte to its answer, by the table |
| `calls`, `settings`, `cdrs` | what the operations do |
| `paging`, `idempotency` | cursors; POSTs that are sent twice |
"""
