# frozen_string_literal: true

require 'open3'

# The external PostgreSQL, asked through psql. Passwords go by the environment, statements by standard input.
class Backend
  class Refused < StandardError; end

  def initialize(settings)
    @settings = settings
  end

  def superuser = @settings.postgresql['db_superuser']

  # Rows of text columns; Refused with what PostgreSQL said.
  def query(statements, user: superuser, password: nil, database: 'template1')
    password ||= @settings.postgresql['db_superuser_password']
    output, errors, status = Open3.capture3(environment(password), *command(user, database), stdin_data: statements)
    raise Refused, errors.strip unless status.success?

    output.lines(chomp: true).map { |line| line.split('|', -1) }
  end

  def value(statement, **how) = query(statement, **how).first&.first

  private

  def command(user, database)
    pg = @settings.postgresql
    ['psql', '-X', '-q', '-At', '-w', '-v', 'ON_ERROR_STOP=1', '-h', pg['vip'], '-p', (pg['port'] || 5432).to_s,
     '-U', user, '-d', database]
  end

  def environment(password)
    { 'PGPASSWORD' => password, 'PGSSLMODE' => @settings.postgresql['sslmode'] || 'disable', 'PGCONNECT_TIMEOUT' => '10',
      'PGAPPNAME' => 'chef-server-ctl', 'LC_ALL' => 'C' }
  end
end
