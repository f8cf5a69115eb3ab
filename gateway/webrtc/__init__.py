"""The WebRTC worker: browser calls, from offer to end."""
