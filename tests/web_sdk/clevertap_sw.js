// The shop's own; CleverTap's would be imported here.
