"""The REST interface: one controller a file, all messages in `messages`."""
