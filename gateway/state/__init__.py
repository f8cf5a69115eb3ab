"""What outlives a process of the gateway: the state of its calls, in Redis or Valkey.

    gateway main -> sessions -> store (bounded buffer) -> client (redis-py) -> one Lua script a call and batch

Workers and the model server know nothing of it. Whoever writes never waits: `store.Store` takes a record, and sends
it when the server is there. A call has one owner at a time, by a lease with a fencing token (`lease`).
"""
