"""Raw inputs (captions, pictures) to the ports of `Cond`."""
