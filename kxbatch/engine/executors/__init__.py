"""Where units run: in this process, or on Ray. One contract for both."""
