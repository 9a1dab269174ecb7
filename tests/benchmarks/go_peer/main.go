// A plain payment service in Go, as teams write it with Fiber. `make bench` compares us with it.
//
// For each request it verifies the token's signature, looks for the key, commits one durable
// insert, and puts a job into a queue in Redis. It has no limits, no history, no events, and no
// answer that is the same for each repetition.
//
//	go_peer DATABASE_URL REDIS_URL PORT KEYS_URL ISSUER
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/big"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

const table = `
CREATE TABLE IF NOT EXISTS go_payments (
  id uuid PRIMARY KEY, caller text NOT NULL, key text NOT NULL, kind text NOT NULL,
  amount integer NOT NULL, phone_number text NOT NULL, status text NOT NULL,
  created_at timestamptz NOT NULL, UNIQUE (caller, key))`

const find = `SELECT id, status, created_at FROM go_payments WHERE caller = $1 AND key = $2`

const insert = `
INSERT INTO go_payments (id, caller, key, kind, amount, phone_number, status, created_at)
VALUES ($1, $2, $3, $4, $5, $6, 'pending', $7)`

type payment struct {
	ID          uuid.UUID `json:"id"`
	Kind        string    `json:"kind"`
	Status      string    `json:"status"`
	Amount      int       `json:"amount"`
	PhoneNumber string    `json:"phone_number"`
	CreatedAt   time.Time `json:"created_at"`
}

func main() {
	if len(os.Args) != 6 {
		log.Fatal("usage: go_peer DATABASE_URL REDIS_URL PORT KEYS_URL ISSUER")
	}
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Args[1]+"?sslmode=disable&pool_max_conns=20")
	check(err)
	_, err = pool.Exec(ctx, table)
	check(err)
	address, err := redis.ParseURL(os.Args[2])
	check(err)
	queue := redis.NewClient(address)
	keys := fetchKeys(os.Args[4])
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{"ES256"}),
		jwt.WithAudience("authenticated"),
		jwt.WithIssuer(os.Args[5]),
		jwt.WithExpirationRequired(),
	)

	callerOf := func(c *fiber.Ctx) (string, error) {
		text := strings.TrimPrefix(c.Get("Authorization"), "Bearer ")
		claims := jwt.RegisteredClaims{}
		_, err := parser.ParseWithClaims(text, &claims, func(token *jwt.Token) (any, error) {
			kid, _ := token.Header["kid"].(string)
			if key, ok := keys[kid]; ok {
				return key, nil
			}
			return nil, errors.New("unknown key")
		})
		return claims.Subject, err
	}

	app := fiber.New(fiber.Config{DisableStartupMessage: true})
	app.Post("/v1/:kind", func(c *fiber.Ctx) error {
		caller, err := callerOf(c)
		if err != nil {
			return fiber.NewError(fiber.StatusUnauthorized, "invalid token")
		}
		key := c.Get("X-Idempotency-Key")
		wanted := payment{}
		if err := json.Unmarshal(c.Body(), &wanted); err != nil || key == "" || wanted.Amount < 1 {
			return fiber.NewError(fiber.StatusBadRequest, "invalid request")
		}
		err = pool.QueryRow(ctx, find, caller, key).Scan(
			&wanted.ID, &wanted.Status, &wanted.CreatedAt)
		if err == nil {
			return c.Status(fiber.StatusAccepted).JSON(wanted)
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		wanted.ID, wanted.Kind, wanted.Status = uuid.New(), strings.Clone(c.Params("kind")), "pending"
		wanted.CreatedAt = time.Now().UTC()
		_, err = pool.Exec(ctx, insert, wanted.ID, caller, key, wanted.Kind, wanted.Amount,
			wanted.PhoneNumber, wanted.CreatedAt)
		if err != nil {
			return err
		}
		if err := queue.LPush(ctx, "payments", wanted.ID.String()).Err(); err != nil {
			return err
		}
		return c.Status(fiber.StatusAccepted).JSON(wanted)
	})
	go func() {
		time.Sleep(100 * time.Millisecond)
		fmt.Println("ready")
	}()
	check(app.Listen("127.0.0.1:" + os.Args[3]))
}

func fetchKeys(url string) map[string]*ecdsa.PublicKey {
	answer, err := http.Get(url)
	check(err)
	defer answer.Body.Close()
	set := struct {
		Keys []struct{ Kid, X, Y string }
	}{}
	check(json.NewDecoder(answer.Body).Decode(&set))
	keys := map[string]*ecdsa.PublicKey{}
	for _, key := range set.Keys {
		keys[key.Kid] = &ecdsa.PublicKey{
			Curve: elliptic.P256(), X: number(key.X), Y: number(key.Y),
		}
	}
	return keys
}

func number(text string) *big.Int {
	bytes, err := base64.RawURLEncoding.DecodeString(text)
	check(err)
	return new(big.Int).SetBytes(bytes)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
