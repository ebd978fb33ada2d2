package dbrouter

// beforeParenthesis says whether a word in upper case is a keyword that a
// parenthesis may follow without making it a call of a stored function: all but
// LATERAL are reserved words.
func beforeParenthesis(word []byte) bool {
	switch string(word) {
	case "ALL", "AND", "AS", "BETWEEN", "BINARY", "BY", "CASE", "CROSS", "DISTINCT", "DISTINCTROW", "DIV", "ELSE", "EXCEPT", "EXISTS",
		"FOR", "FROM", "GROUP", "HAVING", "HIGH_PRIORITY", "IN", "INDEX", "INTERSECT", "INTERVAL", "IS", "JOIN", "KEY", "LATERAL", "LEFT",
		"LIKE", "LIMIT", "MOD", "NOT", "ON", "OR", "ORDER", "OVER", "PARTITION", "REGEXP", "RIGHT", "RLIKE", "SELECT",
		"SQL_BIG_RESULT", "SQL_CALC_FOUND_ROWS", "SQL_SMALL_RESULT", "STRAIGHT_JOIN", "THEN", "UNION", "USING", "VALUES", "WHEN", "WHERE", "XOR":
		return true
	}
	return false
}

// modifies says whether a word in upper case is a modifier of SELECT without being
// reserved. SQL_CACHE is none: MariaDB has it, but to MySQL since 8.0 it is a name
// like any other.
func modifies(word []byte) bool {
	switch string(word) {
	case "SQL_NO_CACHE", "SQL_BUFFER_RESULT":
		return true
	}
	return false
}

// mayModify says whether a modifier of SELECT may follow on a word in upper case.
func mayModify(word []byte) bool {
	switch string(word) {
	case "SELECT", "ALL", "DISTINCT", "DISTINCTROW", "HIGH_PRIORITY", "SQL_BIG_RESULT", "SQL_CALC_FOUND_ROWS", "SQL_SMALL_RESULT",
		"STRAIGHT_JOIN":
		return true
	}
	return modifies(word)
}

// mustTouch says whether a word in upper case is a function of the server only if
// the parenthesis touches it, unless sql_mode has IGNORE_SPACE: those that are no
// reserved words, and that the servers' lexers, MySQL's or MariaDB's, tell by it.
// See https://dev.mysql.com/doc/refman/8.4/en/function-resolution.html; for
// MariaDB its server is asked in the tests.
func mustTouch(word []byte) bool {
	switch string(word) {
	case "ADDDATE", "BIT_AND", "BIT_OR", "BIT_XOR", "CAST", "COUNT", "CUME_DIST", "CURDATE", "CURTIME", "DATE_ADD", "DATE_SUB",
		"DENSE_RANK", "EXTRACT", "FIRST_VALUE", "GROUP_CONCAT", "JSON_ARRAYAGG", "JSON_OBJECTAGG", "LAG", "LAST_VALUE", "LEAD",
		"MAX", "MEDIAN", "MID", "MIN", "NOW", "NTH_VALUE", "NTILE", "PERCENTILE_CONT", "PERCENTILE_DISC", "PERCENT_RANK",
		"POSITION", "RANK", "ROW_NUMBER", "SESSION_USER", "STD", "STDDEV", "STDDEV_POP", "STDDEV_SAMP", "SUBDATE", "SUBSTR",
		"SUBSTRING", "SUM", "SYSDATE", "SYSTEM_USER", "TRIM", "VARIANCE", "VAR_POP", "VAR_SAMP":
		return true
	}
	return false
}

// readingFunction says whether a word in upper case is a function of the server
// that reads only, gives the same on a replica as on the primary, and leaves
// nothing behind; or a type with a length, as in CAST(x AS CHAR(3)).
func readingFunction(word []byte) bool {
	return aggregate(word) || textFunction(word) || numberFunction(word) || timeFunction(word) || otherFunction(word)
}

func aggregate(word []byte) bool {
	switch string(word) {
	case "ANY_VALUE", "AVG", "BIT_AND", "BIT_OR", "BIT_XOR", "COUNT", "GROUP_CONCAT", "GROUPING", "JSON_ARRAYAGG",
		"JSON_OBJECTAGG", "MAX", "MIN", "STD", "STDDEV", "STDDEV_POP", "STDDEV_SAMP", "SUM", "VAR_POP", "VAR_SAMP",
		"VARIANCE", "CUME_DIST", "DENSE_RANK", "FIRST_VALUE", "LAG", "LAST_VALUE", "LEAD", "MEDIAN", "NTH_VALUE",
		"NTILE", "PERCENTILE_CONT", "PERCENTILE_DISC", "PERCENT_RANK", "RANK", "ROW_NUMBER":
		return true
	}
	return false
}

func textFunction(word []byte) bool {
	switch string(word) {
	case "ASCII", "BIN", "BIT_LENGTH", "CHAR", "CHARACTER_LENGTH", "CHAR_LENGTH", "CHARSET", "COERCIBILITY", "COLLATION",
		"CHR", "CONCAT", "CONCAT_WS", "ELT", "EXPORT_SET", "FIELD", "FIND_IN_SET", "FORMAT", "FROM_BASE64", "HEX", "INSERT",
		"INSTR", "LCASE", "LENGTH", "LENGTHB", "LOCATE", "LOWER", "LPAD", "LTRIM", "MAKE_SET", "MATCH", "MID",
		"NATURAL_SORT_KEY", "OCT", "OCTET_LENGTH", "ORD", "POSITION", "QUOTE", "REGEXP_INSTR", "REGEXP_LIKE", "REGEXP_REPLACE",
		"REGEXP_SUBSTR", "REPEAT", "REPLACE", "REVERSE", "RPAD", "RTRIM", "SOUNDEX", "SPACE", "STRCMP",
		"SFORMAT", "SUBSTR", "SUBSTRING", "SUBSTRING_INDEX", "TO_BASE64", "TO_CHAR", "TRIM", "UCASE", "UNHEX", "UPPER", "WEIGHT_STRING":
		return true
	}
	return false
}

func numberFunction(word []byte) bool {
	switch string(word) {
	case "ABS", "ACOS", "ASIN", "ATAN", "ATAN2", "CEIL", "CEILING", "CONV", "COS", "COT", "CRC32", "DEGREES",
		"EXP", "FLOOR", "GREATEST", "LEAST", "LN", "LOG", "LOG10", "LOG2", "PI", "POW", "POWER", "RADIANS",
		"RAND", "ROUND", "SIGN", "SIN", "SQRT", "TAN", "TRUNCATE", "BIT_COUNT":
		return true
	}
	return false
}

func timeFunction(word []byte) bool {
	switch string(word) {
	case "ADDDATE", "ADDTIME", "ADD_MONTHS", "CONVERT_TZ", "CURDATE", "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP",
		"CURTIME", "DATE", "DATEDIFF", "DATE_ADD", "DATE_FORMAT", "DATE_SUB", "DAY", "DAYNAME",
		"DAYOFMONTH", "DAYOFWEEK", "DAYOFYEAR", "EXTRACT", "FROM_DAYS", "FROM_UNIXTIME", "GET_FORMAT", "HOUR", "LAST_DAY",
		"LOCALTIME", "LOCALTIMESTAMP", "MAKEDATE", "MAKETIME", "MICROSECOND", "MINUTE", "MONTH", "MONTHNAME", "NOW",
		"PERIOD_ADD", "PERIOD_DIFF", "QUARTER", "SECOND", "SEC_TO_TIME", "STR_TO_DATE", "SUBDATE", "SUBTIME", "SYSDATE",
		"TIME", "TIMEDIFF", "TIMESTAMP", "TIMESTAMPADD", "TIMESTAMPDIFF", "TIME_FORMAT", "TIME_TO_SEC", "TO_DAYS",
		"TO_SECONDS", "UNIX_TIMESTAMP", "UTC_DATE", "UTC_TIME", "UTC_TIMESTAMP", "WEEK", "WEEKDAY", "WEEKOFYEAR",
		"YEAR", "YEARWEEK":
		return true
	}
	return false
}

func otherFunction(word []byte) bool {
	switch string(word) {
	case "AES_DECRYPT", "AES_ENCRYPT", "BIN_TO_UUID", "CAST", "COALESCE", "COLUMN_CHECK", "COLUMN_EXISTS", "COLUMN_GET", "COLUMN_JSON", "COLUMN_LIST", "COMPRESS", "CONVERT", "CURRENT_USER", "DATABASE", "DECIMAL", "DATETIME", "DEFAULT", "EXTRACTVALUE", "IF", "IFNULL",
		"INET6_ATON", "INET6_NTOA", "INET_ATON", "INET_NTOA", "ISNULL", "IS_IPV4", "IS_IPV6", "IS_UUID", "MD5", "NAME_CONST", "NULLIF", "NVL", "NVL2", "RANDOM_BYTES", "ROW",
		"SCHEMA", "SESSION_USER", "SHA", "SHA1", "SHA2", "SLEEP", "SYSTEM_USER", "UNCOMPRESS", "UNCOMPRESSED_LENGTH", "UPDATEXML", "USER", "UUID", "UUID_TO_BIN", "VARCHAR", "VERSION",
		"JSON_COMPACT", "JSON_DETAILED", "JSON_EQUALS", "JSON_LOOSE", "JSON_NORMALIZE", "JSON_OVERLAPS", "JSON_STORAGE_SIZE",
		"JSON_ARRAY", "JSON_ARRAY_APPEND", "JSON_ARRAY_INSERT", "JSON_CONTAINS", "JSON_CONTAINS_PATH", "JSON_DEPTH",
		"JSON_EXISTS", "JSON_EXTRACT", "JSON_INSERT", "JSON_KEYS", "JSON_LENGTH", "JSON_MERGE_PATCH", "JSON_MERGE_PRESERVE",
		"JSON_OBJECT", "JSON_PRETTY", "JSON_QUERY", "JSON_QUOTE", "JSON_REMOVE", "JSON_REPLACE", "JSON_SEARCH", "JSON_SET",
		"JSON_TABLE", "JSON_TYPE", "JSON_UNQUOTE", "JSON_VALID", "JSON_VALUE",
		"MBRCONTAINS", "MBRINTERSECTS", "MBRWITHIN", "ST_AREA", "ST_ASBINARY", "ST_ASGEOJSON", "ST_ASTEXT", "ST_BUFFER", "ST_CENTROID",
		"ST_CONTAINS", "ST_CROSSES", "ST_DISJOINT", "ST_DISTANCE", "ST_DISTANCE_SPHERE", "ST_ENVELOPE", "ST_EQUALS",
		"ST_GEOMFROMGEOJSON", "ST_GEOMFROMTEXT", "ST_GEOMFROMWKB", "ST_INTERSECTS", "ST_ISVALID", "ST_LATITUDE", "ST_LENGTH",
		"ST_LONGITUDE", "ST_OVERLAPS", "ST_SRID", "ST_TOUCHES", "ST_WITHIN", "ST_X", "ST_Y", "POINT":
		return true
	}
	return false
}
