"""Where neurons lie and how messages travel, what a core holds, and the mapping file. Stands
on `graph` and `systems`."""
