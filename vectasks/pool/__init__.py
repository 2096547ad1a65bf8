"""Workers that hold any object: in processes, in this process, or as Ray actors."""
