"""What people read: tables for the terminal and a self-contained HTML report."""
