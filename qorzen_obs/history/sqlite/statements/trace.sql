SELECT spans FROM traces WHERE trace_id = ?
