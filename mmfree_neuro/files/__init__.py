"""Files from outside and files of ours: one way in and one way out.  Stands on `errors` alone."""
