//! The agent's side of the shim's protocol: spawn, adopt, ask, listen.
