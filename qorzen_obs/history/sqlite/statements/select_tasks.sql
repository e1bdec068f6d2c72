SELECT {columns} FROM {tasks} WHERE {conditions} ORDER BY {order} LIMIT ?
