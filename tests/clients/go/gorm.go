package main

import (
	"errors"
	"fmt"
	"time"

	driver "gorm.io/driver/mysql"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/logger"
)

type purchase struct {
	ID       uint64
	Customer string         `gorm:"size:100;uniqueIndex"`
	Total    *string        `gorm:"type:decimal(20,4)"`
	Placed   *time.Time     `gorm:"precision:6"`
	Notes    map[string]any `gorm:"serializer:json;type:json"`
	Proof    []byte
	Lines    []line
}

type line struct {
	ID         uint64
	PurchaseID uint64
	Article    string
}

func gormChecks() []check {
	none := func(why string) func() { return func() { panic(missing(why)) } }
	var db *gorm.DB
	entities := func() {
		total, placed := "1234567890123456.0001", time.Date(2024, 12, 31, 23, 59, 59, 123456000, time.UTC)
		made := purchase{Customer: fmt.Sprint("Grüße 😀", time.Now().UnixNano()), Total: &total, Placed: &placed,
			Notes: map[string]any{"a": "ü"}, Proof: []byte{0, 255, 39, 92}, Lines: []line{{Article: "a"}, {Article: "b"}}}
		ok(db.Create(&made).Error)
		var found purchase
		ok(db.Transaction(func(tx *gorm.DB) error { return tx.Preload("Lines").First(&found, made.ID).Error }))
		equal([]any{found.Customer, *found.Total, found.Placed.UTC(), found.Notes, found.Proof, len(found.Lines)},
			[]any{made.Customer, total, placed, made.Notes, made.Proof, 2})
		empty := purchase{Customer: fmt.Sprint("empty", time.Now().UnixNano())}
		ok(db.Create(&empty).Error)
		found = purchase{}
		ok(db.Transaction(func(tx *gorm.DB) error { return tx.First(&found, empty.ID).Error }))
		equal(found.Total == nil && found.Placed == nil, true)
	}
	return []check{
		{"connect", func() {
			db = must(gorm.Open(driver.New(driver.Config{DSNConfig: config(true)}),
				&gorm.Config{Logger: logger.Discard, TranslateError: true}))
			// Makes the tables, comparing them with information_schema first; the second time there is nothing to do.
			ok(db.AutoMigrate(&purchase{}, &line{}))
			ok(db.AutoMigrate(&purchase{}, &line{}))
		}},
		{"text", func() { entities() }},
		{"prepared", func() {
			before := db
			defer func() { db = before }()
			db = must(gorm.Open(driver.New(driver.Config{DSNConfig: config(false)}),
				&gorm.Config{Logger: logger.Discard, PrepareStmt: true, TranslateError: true}))
			entities()
			entities()
		}},
		{"own-writes", func() {
			ok(db.Connection(func(one *gorm.DB) error {
				tx := one.Session(&gorm.Session{NewDB: true})
				for number := range 20 {
					made := purchase{Customer: fmt.Sprint("own ", number)}
					ok(tx.Create(&made).Error)
					var found purchase
					ok(tx.First(&found, made.ID).Error)
					equal(found.Customer, made.Customer)
					ok(tx.Model(&found).Update("total", "5").Error)
					ok(tx.First(&found, made.ID).Error)
					equal(*found.Total, "5.0000")
				}
				return nil
			}))
		}},
		{"transaction", func() {
			undo := errors.New("roll back")
			err := db.Transaction(func(tx *gorm.DB) error {
				ok(tx.Create(&purchase{Customer: "undone"}).Error)
				// Inside, a transaction is a savepoint.
				equal(tx.Transaction(func(inner *gorm.DB) error {
					ok(inner.Create(&purchase{Customer: "inner"}).Error)
					return undo
				}), undo)
				var count int64
				ok(tx.Model(&purchase{}).Where("customer IN ?", []string{"undone", "inner"}).Count(&count).Error)
				equal(count, 1)
				return undo
			})
			equal(err, undo)
			ok(db.Transaction(func(tx *gorm.DB) error {
				var count int64
				ok(tx.Model(&purchase{}).Where("customer = ?", "undone").Count(&count).Error)
				equal(count, 0)
				return tx.Create(&purchase{Customer: "kept"}).Error
			}))
		}},
		{"blob", none("its driver's")},
		{"procedure", none("its driver's")},
		{"batch", func() {
			many := make([]purchase, 1000)
			for number := range many {
				many[number].Customer = fmt.Sprint("batch ", number)
			}
			ok(db.CreateInBatches(many, 300).Error)
			ok(db.Connection(func(one *gorm.DB) error {
				tx := one.Session(&gorm.Session{NewDB: true})
				again := purchase{Customer: "batch 0", Proof: []byte("again")}
				ok(tx.Clauses(clause.OnConflict{DoUpdates: clause.AssignmentColumns([]string{"proof"})}).Create(&again).Error)
				var found purchase
				ok(tx.First(&found, "customer = ?", "batch 0").Error)
				equal(string(found.Proof), "again")
				equal(found.ID, many[0].ID)
				return nil
			}))
		}},
		{"local-infile", none("its driver's")},
		{"errors", func() {
			err := db.Create(&purchase{Customer: "kept"}).Error
			equal(errors.Is(err, gorm.ErrDuplicatedKey), true)
			refused(db.Exec("SELECT * FROM nothing").Error, 1146, "42S02")
		}},
		{"cancel", none("its driver's")},
		{"reset", none("its driver's")},
	}
}
