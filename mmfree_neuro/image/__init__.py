"""From a mapping to a machine image: what every core is loaded with, in bytes."""
