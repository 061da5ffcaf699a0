"""Who may reach the servers: where they listen, and which login they ask for."""
