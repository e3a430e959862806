// The checks with go-sql-driver/mysql by database/sql (`clients driver`) and with gorm (`clients gorm`).
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/go-sql-driver/mysql"
)

var schema, rowsFile = os.Getenv("CLIENT_SCHEMA"), os.Getenv("CLIENT_ROWS")

// config is the address that the program was given. Arguments are prepared unless `interpolate`.
func config(interpolate bool) *mysql.Config {
	c := mysql.NewConfig()
	c.Net, c.Addr = "tcp", fmt.Sprintf("%s:%s", os.Getenv("CLIENT_HOST"), os.Getenv("CLIENT_PORT"))
	c.User, c.Passwd, c.DBName = os.Getenv("CLIENT_USER"), os.Getenv("CLIENT_PASSWORD"), schema
	ok(c.Apply(mysql.Charset("utf8mb4", "")))
	c.InterpolateParams, c.ParseTime = interpolate, true
	c.TLSConfig = map[string]string{"on": "skip-verify", "off": "false"}[os.Getenv("CLIENT_TLS")]
	return c
}

var columns = strings.Fields("id tiny small big huge wide narrow exact flags day moment span vintage word bytes document choice several")

func main() {
	switch os.Args[1] {
	case "gorm":
		report(gormChecks())
	default:
		report(driverChecks())
	}
}
